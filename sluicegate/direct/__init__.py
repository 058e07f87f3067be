"""Calls that own code makes for itself, without an event, under the limits that the workers share."""
