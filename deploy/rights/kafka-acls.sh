#!/bin/sh
# Made by `sluicegate rights --format kafka`. BOOTSTRAP names the brokers, ADMIN a file of client
# settings for an account that may alter ACLs, KAFKA_ACLS Kafka's own program.
set -eu
grant() { "${KAFKA_ACLS:-kafka-acls.sh}" --bootstrap-server "$BOOTSTRAP" \
    --command-config "$ADMIN" --add "$@"; }
grant --allow-principal User:sluicegate-operator --operation Describe --group sluicegate.documents --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --group sluicegate.documents.replay. --resource-pattern-type prefixed
grant --allow-principal User:sluicegate-operator --operation Describe --group sluicegate.onlookers --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Describe --group sluicegate.relay --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Describe --group sluicegate.support-chat --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --group sluicegate.support-chat.replay. --resource-pattern-type prefixed
grant --allow-principal User:sluicegate-operator --operation Describe --topic documents --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic documents.results --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --operation Write --topic sluicegate.audit --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.documents.dlq --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --operation Write --topic sluicegate.documents.due --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.documents.retry.1 --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.documents.retry.2 --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.documents.retry.3 --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.documents.retry.4 --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.documents.retry.5 --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.support-chat.dlq --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --operation Write --topic sluicegate.support-chat.due --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.support-chat.retry.1 --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.support-chat.retry.2 --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.support-chat.retry.3 --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.support-chat.retry.4 --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic sluicegate.support-chat.retry.5 --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Describe --topic support-chat --resource-pattern-type literal
grant --allow-principal User:sluicegate-operator --operation Read --topic support-chat.results --resource-pattern-type literal
grant --allow-principal User:sluicegate-publisher --operation Write --topic documents --resource-pattern-type literal
grant --allow-principal User:sluicegate-publisher --operation Write --topic support-chat --resource-pattern-type literal
grant --allow-principal User:sluicegate-reader --operation Read --group documents.results --resource-pattern-type prefixed
grant --allow-principal User:sluicegate-reader --operation Read --group support-chat.results --resource-pattern-type prefixed
grant --allow-principal User:sluicegate-reader --operation Read --topic documents.results --resource-pattern-type literal
grant --allow-principal User:sluicegate-reader --operation Read --topic support-chat.results --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --group sluicegate.relay --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Describe --topic documents --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Describe --topic documents.results --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Describe --topic sluicegate.audit --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Write --topic sluicegate.documents.dlq --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Write --topic sluicegate.documents.due --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --operation Write --topic sluicegate.documents.retry.1 --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --operation Write --topic sluicegate.documents.retry.2 --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --operation Write --topic sluicegate.documents.retry.3 --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --operation Write --topic sluicegate.documents.retry.4 --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --operation Write --topic sluicegate.documents.retry.5 --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Write --topic sluicegate.support-chat.dlq --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Write --topic sluicegate.support-chat.due --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --operation Write --topic sluicegate.support-chat.retry.1 --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --operation Write --topic sluicegate.support-chat.retry.2 --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --operation Write --topic sluicegate.support-chat.retry.3 --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --operation Write --topic sluicegate.support-chat.retry.4 --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Read --operation Write --topic sluicegate.support-chat.retry.5 --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Describe --topic support-chat --resource-pattern-type literal
grant --allow-principal User:sluicegate-relay --operation Describe --topic support-chat.results --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Describe --group sluicegate.documents --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Describe --group sluicegate.relay --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Describe --group sluicegate.support-chat --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic documents --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic documents.results --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.audit --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.documents.dlq --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.documents.due --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.documents.retry.1 --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.documents.retry.2 --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.documents.retry.3 --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.documents.retry.4 --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.documents.retry.5 --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.support-chat.dlq --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.support-chat.due --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.support-chat.retry.1 --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.support-chat.retry.2 --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.support-chat.retry.3 --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.support-chat.retry.4 --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic sluicegate.support-chat.retry.5 --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic support-chat --resource-pattern-type literal
grant --allow-principal User:sluicegate-topics --operation Alter --operation Create --operation Describe --operation DescribeConfigs --topic support-chat.results --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Read --group sluicegate.documents --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Read --group sluicegate.support-chat --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Read --topic documents --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic documents.results --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.documents.dlq --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Read --topic sluicegate.documents.due --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.documents.retry.1 --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.documents.retry.2 --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.documents.retry.3 --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.documents.retry.4 --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.documents.retry.5 --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.support-chat.dlq --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Read --topic sluicegate.support-chat.due --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.support-chat.retry.1 --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.support-chat.retry.2 --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.support-chat.retry.3 --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.support-chat.retry.4 --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic sluicegate.support-chat.retry.5 --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Read --topic support-chat --resource-pattern-type literal
grant --allow-principal User:sluicegate-worker --operation Write --topic support-chat.results --resource-pattern-type literal
