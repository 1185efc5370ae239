"""A vocoder behind HTTP and WebSocket."""
