"""Turns plans into effects: keyed queue, reconcile loop, rendering, rendezvous server, the Cluster protocol.

May import core and api.
"""
