"""Provisioning: everything that happens before the service starts."""
