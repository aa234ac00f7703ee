"""Symbols <-> bytes: committed integer tables, grouped and interleaved ANS, in plain Python too.

Read `tables` (what a table index means), then `reference` (the stream, in code one can read aloud), then
`coder` (the same stream, fast). Bytes in parallel lanes: `lanes_reference`, then `lanes`.
"""
