"""The Faust side of a worker: the only place that imports faust and aiokafka.

Faust is the shell: the app, its configuration and two agents per stream. What is committed, what is
fetched, how a rebalance hands over and how a process ends is decided here, in subclasses of Faust's
own consumer and producer (docs/adr/0001 says why each is needed).
"""
