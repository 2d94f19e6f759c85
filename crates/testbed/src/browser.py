# A page in headless Chromium, driven by the Chrome DevTools protocol over two pipes.
#
# Reads a command a line and answers each with a line, both JSON:
#   {"method": M, "params": P}   calls a method of the protocol for the page; its `result`, or `error`
#   {"events": M}                gives all events of that method so far
import json
import os
import subprocess
import sys
import threading

PATIENCE = 60


class Browser:
    def __init__(self, program, arguments):
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()

        def pipes():
            # numbers 3 and 4 may be among those to be moved
            ends = os.dup(to_browser), os.dup(from_browser)
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen(
            [program, *arguments],
            preexec_fn=pipes,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.last = 0
        self.session = None
        self.events = []
        self.answers = {}
        self.changed = threading.Condition()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        rest = b""
        while chunk := os.read(self.read, 1 << 20):
            *messages, rest = (rest + chunk).split(b"\0")
            with self.changed:
                for message in map(json.loads, messages):
                    if "id" in message:
                        self.answers[message["id"]] = message
                    else:
                        self.events.append(message)
                self.changed.notify_all()
        with self.changed:
            self.answers = None
            self.changed.notify_all()

    def call(self, method, params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write, data):]
        with self.changed:
            here = self.changed.wait_for(
                lambda: self.answers is None or self.last in self.answers, PATIENCE
            )
            if not here or self.answers is None:
                return {"error": {"message": f"no answer to {method}"}}
            return self.answers.pop(self.last)

    def told(self, method):
        with self.changed:
            return [event["params"] for event in self.events if event["method"] == method]

    def open(self):
        target = self.call("Target.createTarget", {"url": "about:blank"})["result"]["targetId"]
        attach = {"targetId": target, "flatten": True}
        self.session = self.call("Target.attachToTarget", attach)["result"]["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log"]:
            self.call(f"{domain}.enable", {})


def main():
    browser = Browser(sys.argv[1], sys.argv[2:])
    try:
        browser.open()
        print("ready", flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            if "events" in command:
                answer = {"result": browser.told(command["events"])}
            else:
                answer = browser.call(command["method"], command.get("params", {}))
            answer = {key: answer[key] for key in ("result", "error") if key in answer}
            print(json.dumps(answer), flush=True)
    finally:
        browser.process.kill()
        browser.process.wait()


main()
