"""Memory of past tasks: their vectors, the file that keeps them, and finding those like a new one."""
