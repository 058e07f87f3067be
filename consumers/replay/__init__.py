"""Sending back what died or what is parked: planned from Kafka, and only ever started by an operator."""
