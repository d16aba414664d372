"""Chaos: what clients see while the worker processes of a stack that serves them are killed and stopped.

questions ─▶ ask ─▶ answer      what is asked, over HTTP and gRPC, and what came
load                            clients that ask without end, and compare each answer with its reference
victims ─▶ killer               which process is next, and its loss
resumes ─▶ pauses               which streams a loss touched, and how long their clients waited
leftovers                       slots, held blobs, processes and files that should be gone
figures                         the result
"""
