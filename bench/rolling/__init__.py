"""A rolling restart under load: how long each process takes to leave, and what clients see of it.

restarts       SIGTERM for one process after the other
run            the stack, the load and the result
"""
