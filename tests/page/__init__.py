"""The page in a browser. `make test-page` runs these tests; `make test` does not."""
