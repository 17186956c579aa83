"""One function a verb, and recipes made of them."""
