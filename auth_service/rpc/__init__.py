"""The gRPC edge: translates protobuf requests to core calls, and results and errors back.

Here: servicers, the dispatcher, health, reflection, TLS, and the server with its options. Rules and
SQL are in core and db; which objects a server is built of is decided in serving.
"""
