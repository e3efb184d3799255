"""What `state` compares: the same calls by ours and by what a project would use instead.

Each module has functions that return the calls of a contender by their names; a call gets a running number.
"""
