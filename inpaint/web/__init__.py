"""The service and its page: a queue in front of the networks, an HTTP API, and a page with a brush (extra ``web``)."""
