"""Deliveries of the feed to receivers over HTTP: signed, at least once, in order for each machine.

`outbox` decides what is sent next, `delivery` carries one webhook on, `courier` has those of the whole swarm while this
replica is the one to do so, `sender` speaks HTTP, `addresses` says to whom it may, `signature` how a receiver knows us.
"""
