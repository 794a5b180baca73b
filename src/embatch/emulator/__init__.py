"""The providers' side of the wire, on loopback: for tests, demonstrations and rehearsals."""
