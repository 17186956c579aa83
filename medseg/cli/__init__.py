"""One small file a verb: ask, call, show. The only place that prints."""
