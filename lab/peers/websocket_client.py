"""Talks over a WebSocket, and says what came back. Over HTTP/1.1: URL [CERTIFICATE]; over HTTP/2: h2 HOST PORT [CERTIFICATE]"""

import asyncio
import socket
import ssl
import sys

MESSAGES = ["hello", "\u00e4" * 100, b"\0\1\2", bytes(range(256)) * 1_000]


def context(file, *protocols):
    context = ssl.create_default_context(cafile=file)
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


async def http1(url, *certificate):
    import websockets

    options = {"ssl": context(certificate[0])} if certificate else {}
    async with websockets.connect(url, max_size=None, open_timeout=20, **options) as websocket:
        for message in MESSAGES:
            await websocket.send(message)
            print(await websocket.recv() == message)
        await websocket.close(1000, "done")
    print("closed", websocket.close_code)


def http2(host, port, *certificate):
    import h2.config
    import h2.connection
    import h2.events
    import h2.settings
    from wsproto.connection import Connection, ConnectionType
    from wsproto.events import BytesMessage, CloseConnection, TextMessage

    stream = socket.create_connection((host, int(port)), timeout=20)
    if certificate:
        stream = context(certificate[0], "h2").wrap_socket(stream, server_hostname="localhost")
        assert stream.selected_alpn_protocol() == "h2"
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    stream.sendall(connection.data_to_send())
    told, status, data = False, None, bytearray()

    def receive():
        nonlocal told, status
        read = stream.recv(65_536)
        assert read, "the connection has ended"
        for event in connection.receive_data(read):
            if isinstance(event, h2.events.RemoteSettingsChanged):
                changed = event.changed_settings
                told |= h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL in changed
            elif isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers)[":status"]
            elif isinstance(event, h2.events.DataReceived):
                data.extend(event.data)
                connection.acknowledge_received_data(event.flow_controlled_length, 1)
        stream.sendall(connection.data_to_send())

    while not told:
        receive()
    scheme = "https" if certificate else "http"
    head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", scheme), (":path", "/h1")]
    head += [(":authority", "localhost"), ("sec-websocket-version", "13")]
    connection.send_headers(1, head)
    stream.sendall(connection.data_to_send())
    while status is None:
        receive()
    print("status", status)
    websocket = Connection(ConnectionType.CLIENT)

    def send(event):
        left = websocket.send(event)
        while left:
            room = min(connection.local_flow_control_window(1), connection.max_outbound_frame_size)
            if room == 0:
                receive()
                continue
            connection.send_data(1, left[:room])
            stream.sendall(connection.data_to_send())
            left = left[room:]

    def messages():
        parts = []
        while True:
            if data:
                websocket.receive_data(bytes(data))
                data.clear()
            for event in websocket.events():
                if isinstance(event, CloseConnection):
                    yield event.code
                    continue
                parts.append(event.data)
                if event.message_finished:
                    yield (b"" if isinstance(event, BytesMessage) else "").join(parts)
                    parts = []
            receive()

    heard = messages()
    for message in MESSAGES:
        send(BytesMessage(message) if isinstance(message, bytes) else TextMessage(message))
        print(next(heard) == message)
    send(CloseConnection(1000, "done"))
    print("closed", next(heard))


if sys.argv[1] == "h2":
    http2(*sys.argv[2:])
else:
    asyncio.run(http1(*sys.argv[1:]))
