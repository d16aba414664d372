"""Official clients, unmodified, each in an environment of its own, against a gateway: `make test-clients`."""
