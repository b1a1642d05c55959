"""An HL7 receiver over TLS that nobody of this project wrote the TLS of: Python's ssl, with a certificate asked of the
sender. Prints its port, then the subject of each sender and MSH-10 of each message, and answers AA."""

import socket
import ssl
import sys

ca, cert, key = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
context.load_cert_chain(cert, key)
context.verify_mode = ssl.CERT_REQUIRED
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    plain, _ = listener.accept()
    try:
        stream = context.wrap_socket(plain, server_side=True)
        name = dict(part for rdn in stream.getpeercert()["subject"] for part in rdn)["commonName"]
        data = b""
        while not data.endswith(b"\x1c\r"):
            read = stream.recv(65536)
            if not read:
                raise OSError("the sender went away")
            data += read
        header = data[1:].split(b"\r")[0].split(b"|")
        answer = b"\r".join(
            [
                b"|".join(header[:2] + header[4:6] + header[2:4] + [header[6], b"", b"ACK^R01^ACK", b"R1"] + header[10:12]),
                b"MSA|AA|" + header[9],
            ]
        )
        stream.sendall(b"\x0b" + answer + b"\r\x1c\r")
        print(name, header[9].decode(), flush=True)
        stream.close()
    except OSError as error:
        print("refused", type(error).__name__, flush=True)
        plain.close()
