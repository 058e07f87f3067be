"""Events on Kafka: the CloudEvents envelope, the shipped streams' models, and an event's identity. Pure."""
