"""The HTTP edge: translates requests to core calls, and results and errors back.

Here: the routes (discovery, OAuth, browser sessions, forward-auth, probes) and the HTTP server with
its deadlines and limits. Rules and SQL are in core and db.
"""
