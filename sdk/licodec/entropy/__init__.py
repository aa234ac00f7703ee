"""Symbols <-> bytes: committed integer tables, grouped ANS coding, and its plain-Python specification.

Read `tables` (what a table index means), then `reference` (the stream, in code one can read aloud), then
`coder` (the same stream, fast).
"""
