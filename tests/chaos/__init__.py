"""Attacks and faults against a running service, each with its figures.

The functions are used by short tests and by the long runs of `make chaos`. Tests themselves and
the starting of servers live elsewhere.
"""

import os

# The processes that are started here are forked while channels are open. gRPC's own handlers for
# that crash now and then, in the child, before the program begins.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
