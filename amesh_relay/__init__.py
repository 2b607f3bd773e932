"""The relay: it lets two devices that share a six-digit code find each other.

    config         the file, the environment and the command line -> one frozen Config
    options        the table of settings
    process        sockets, signals, and how it ends
    sockets        an address, a path, what systemd hands over; a word to systemd
    tls            a certificate that may be renewed
    entrance       sockets on their way in: PROXY header, TLS handshake
    server         sockets; decides nothing: frame in -> hub -> effects out
    connection     one socket: a WebSocket, cut when it does not read
    house          what a connection belongs to; patience: how long it may take for what
    web            what is answered to plain HTTP; inspection: at an address of its own
    counts         what was done so far; metrics: for Prometheus; logs: for people or programs
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
