"""The contract with other services, generated from the models: JSON Schemas and an AsyncAPI document."""
