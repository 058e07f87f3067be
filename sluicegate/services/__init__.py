"""What other services import: publishing events and reading results, without Faust and without Redis."""
