"""An OpenAI-compatible server in a thread of this program, for as long as the block lasts.

python examples/server.py model.gguf
"""

import sys

from edge import Server

with Server(sys.argv[1]) as server:  # on a port that is free, ready from here on
    print(f"Ready at {server.url}/v1 with the key {server.key}. Enter ends it.", flush=True)
    sys.stdin.readline()
