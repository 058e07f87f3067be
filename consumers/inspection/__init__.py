"""Looking at a deployment from Kafka alone: no group is joined and nothing is committed."""
