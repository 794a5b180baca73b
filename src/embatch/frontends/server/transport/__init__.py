"""Between sockets and routes: limits on slow and greedy clients, request ids, running and draining."""
