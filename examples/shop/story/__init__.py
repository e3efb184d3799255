"""What demo.py tells: not part of the shop, and nothing a user of the library has to write."""
