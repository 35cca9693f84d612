"""Configuration, a watch, a lock and a registration over HTTP, with the standard library alone.

    pintle serve                     # in another shell
    python3 example.py [URL]

Where the server asks for an access token, PINTLE_ACCESS_TOKEN holds it.
"""

import http.client
import json
import os
import sys
import threading
import time
import uuid
from urllib.parse import quote, urlsplit


class Problem(Exception):
    """An answer that is not a success: a problem document (RFC 9457)."""

    def __init__(self, document):
        super().__init__(document.get("detail") or document.get("title"))
        self.document = document
        self.code = document["type"].rsplit(":", 1)[-1]


class Pintle:
    """One backend of one server."""

    def __init__(self, url, backend="default", token=None):
        self.address = urlsplit(url)
        self.base = f"/v1/backends/{quote(backend, safe='')}"
        self.headers = {"Accept": "application/json"}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"

    def connect(self):
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        return kinds[self.address.scheme](self.address.netloc, timeout=60)

    def call(self, method, path, body=None, headers=None):
        """Sends a request, and answers the JSON that comes back."""
        connection = self.connect()
        try:
            headers = {**self.headers, **(headers or {})}
            connection.request(method, self.base + path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        document = json.loads(text) if text else {}
        if answer.status >= 400:
            raise Problem(document)
        return document

    # Configuration

    def put(self, key, value, version=None):
        """Writes a key; with a version only if that is still there."""
        headers = {"If-Match": f'"{version}"'} if version else {}
        return self.call("PUT", f"/config/keys/{quote(key)}", value, headers)["version"]

    def get(self, key):
        return self.call("GET", f"/config/keys/{quote(key)}")

    def watch(self, prefix):
        """Yields events for ever: each a name and its data. Goes on where it was when the connection
        is lost."""
        last = None
        while True:
            connection = self.connect()
            headers = {**self.headers, "Accept": "text/event-stream"}
            if last:
                headers["Last-Event-ID"] = last
            try:
                path = f"{self.base}/config/watch?prefix={quote(prefix, safe='')}"
                connection.request("GET", path, headers=headers)
                stream = connection.getresponse()
                if stream.status != 200:
                    raise Problem(json.loads(stream.read()))
                fields = {}
                for line in stream:
                    line = line.decode().rstrip("\r\n")
                    if line:
                        name, _, value = line.partition(":")
                        fields[name] = value.removeprefix(" ")
                    elif "data" in fields:
                        last = fields.get("id", last)
                        yield fields["event"], json.loads(fields["data"])
                        fields = {}
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(1)

    # Locks

    def lock(self, name, ttl=15.0, wait=60.0):
        return Lock(self, name, ttl, wait)

    # Registry

    def register(self, service, host, port, ttl=15.0):
        return Registration(self, service, host, port, ttl)


class Lock:
    """A lock that is held within `with`. `lost` is set as soon as it may not be held any more."""

    def __init__(self, pintle, name, ttl, wait):
        self.pintle, self.ttl, self.wait = pintle, ttl, wait
        # The id is ours, so that a lost answer leaves nothing behind: asking again finds the lease.
        self.path = f"/locks/{quote(name, safe='')}/leases/{uuid.uuid4()}"
        self.lost = threading.Event()
        self.ended = threading.Event()

    def __enter__(self):
        sent = time.monotonic()
        body = {"ttl_ms": int(self.ttl * 1000), "wait_ms": int(self.wait * 1000), "owner": "python"}
        lease = self.pintle.call("PUT", self.path, json.dumps(body))
        self.token = lease["token"]["value"]
        # The time that is promised counts from the sending; waiting for the lock is part of it.
        self.until = sent + lease["valid_for_ms"] / 1000
        threading.Thread(target=self.keep, daemon=True).start()
        return self

    def keep(self):
        while not self.ended.wait(self.ttl / 3):
            sent = time.monotonic()
            try:
                lease = self.pintle.call("POST", self.path + "/keepalive")
                self.until = sent + lease["valid_for_ms"] / 1000
            except Problem as problem:
                if problem.document["status"] == 410:
                    break
            except OSError:
                pass
            if time.monotonic() >= self.until:
                break
        if not self.ended.is_set():
            self.lost.set()

    def __exit__(self, *_):
        self.ended.set()
        try:
            self.pintle.call("DELETE", self.path)
        except Problem as problem:
            if problem.document["status"] != 410:
                raise


class Registration:
    """An instance that is registered within `with`."""

    def __init__(self, pintle, service, host, port, ttl):
        self.pintle, self.ttl = pintle, ttl
        self.owner = str(uuid.uuid4())
        instance = quote(f"{host}:{port}", safe="")
        self.path = f"/registry/services/{quote(service, safe='')}/instances/{instance}"
        self.body = json.dumps(
            {
                "instance": {"host": host, "port": port},
                "owner": self.owner,
                "ttl_ms": int(ttl * 1000),
            }
        )
        self.ended = threading.Event()

    def __enter__(self):
        self.pintle.call("PUT", self.path, self.body)
        threading.Thread(target=self.keep, daemon=True).start()
        return self

    def keep(self):
        while not self.ended.wait(self.ttl / 3):
            try:
                # The same request again: a server that was restarted registers it anew.
                self.pintle.call("PUT", self.path, self.body)
            except (Problem, OSError) as error:
                print("not registered at the moment:", error, file=sys.stderr)

    def __exit__(self, *_):
        self.ended.set()
        self.pintle.call("DELETE", f"{self.path}?owner={self.owner}")


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7468"
    pintle = Pintle(url, token=os.environ.get("PINTLE_ACCESS_TOKEN"))

    version = pintle.put("python/greeting", "hello")
    print("get:", pintle.get("python/greeting")["value"])
    pintle.put("python/greeting", "hello again", version)
    try:
        pintle.put("python/greeting", "too late", version)
    except Problem as problem:
        print("refused:", problem.code)

    changes = pintle.watch("python")
    for event, data in changes:
        print("watch:", event, data.get("entry", {}).get("value", ""))
        if event == "snapshot-end":
            pintle.put("python/greeting", "changed")
        if data.get("entry", {}).get("value") == "changed":
            break

    with pintle.lock("python/job") as lock:
        print("lock: held, token", lock.token)
        if not lock.lost.is_set():
            pintle.put("python/done-by", str(lock.token))
    print("lock: released")

    with pintle.register("python", "127.0.0.1", 8080):
        instances = pintle.call("GET", "/registry/services/python/instances")["instances"]
        print("registered:", [instance["id"] for instance in instances])
    services = pintle.call("GET", "/registry/services")["services"]
    print("deregistered:", "python" not in [service["name"] for service in services])


if __name__ == "__main__":
    main()
