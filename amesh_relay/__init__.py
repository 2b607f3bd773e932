"""The relay: it lets two devices that share a six-digit code find each other.

    config         the command line and the environment -> one frozen Config
    process        a port, file descriptors, signals
    server         sockets; decides nothing: frame in -> hub -> effects out
    connection     one socket: counted when accepted, cut when it does not read
    hub            pure: (connection number, frame, now) -> list of effects
    codes          pure: codes, the sessions that grow from them, and guessing
    announcements  pure: bootstrap frames, and the tokens that are used up
    roles          what a connection is to the relay; the effects
    limits         pure: how many, how often, how long, in bounded memory
    addresses      pure: which client is behind a socket, and who counts as one client

docs/protocol.md section 4. The relay carries what it cannot read: it imports nothing of
ours but amesh_core.wire.relay and amesh_core.errors, and no cryptography. Its log (logger
`amesh.relay`, standard error) holds no code, payload, key, token or address.
"""
