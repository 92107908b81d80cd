"""``make faults``: break a running stream in every way, and count what it cost.

A producer sends events to three shards without pause. Each fault happens under that load, at a
moment drawn from a seed; then the producer holds, and the clock runs until Elasticsearch, the views
over the summaries and the views over the event log say exactly what SQL says over the lines that
were sent, row by row.
"""
