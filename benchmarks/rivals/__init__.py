"""What people would use instead, each as small as its documentation has it, and at its best.

The HTTP ones run in an environment of their own (`environment.py`), with uvicorn, uvloop and
httptools, one worker, no access log and no database: users and tokens are in memory.
"""
