"""Which lenses did the network see, and what did it say? Pages for a browser, without a server or network."""
