"""A Kafka client of two libraries, for tests: what it is told on standard input, a line of JSON each.

    kafka.py confluent HOST:PORT CLIENT-ID LIMIT      librdkafka, by confluent-kafka
    kafka.py python HOST:PORT CLIENT-ID LIMIT         kafka-python

    {"do": "produce", "topic": T, "values": [..], "acks": N}    one producer for each N; its offsets
    {"do": "consume", "topics": [..], "group": G, "count": N}   N values of these topics, from the first
    {"do": "topics"}                                            the names of all topics

The answer is a line of JSON: `error` (the name of what went wrong, or null), `values` or `offsets`.
Who gets no answer gives up after LIMIT seconds.
"""

import json
import sys
import time

LIMIT = float(sys.argv[-1])


class Confluent:
    def __init__(self, server, client_id):
        import confluent_kafka
        import confluent_kafka.admin

        self.kafka = confluent_kafka
        self.settings = {"bootstrap.servers": server, "client.id": client_id,
                         "allow.auto.create.topics": False, "log_level": 0}
        self.producers = {}

    def produce(self, topic, values, acks=-1):
        if acks not in self.producers:
            settings = {**self.settings, "acks": acks, "message.timeout.ms": int(LIMIT * 1000),
                        "message.max.bytes": 20_000_000}
            self.producers[acks] = self.kafka.Producer(settings)
        producer, errors, offsets = self.producers[acks], [], []

        def done(error, message):
            errors.append(error.name()) if error else offsets.append(message.offset())

        for value in values:
            producer.produce(topic, value.encode(), on_delivery=done)
        # what cannot be delivered in time is an error by then
        if producer.flush(LIMIT + 10):
            errors.append("UNDELIVERED")
        return {"error": errors[0] if errors else None, "offsets": offsets}

    def consume(self, topics, group, count):
        consumer = self.kafka.Consumer({**self.settings, "group.id": group,
                                        "auto.offset.reset": "earliest",
                                        "session.timeout.ms": 6000})
        consumer.subscribe(topics)
        values, error, end = [], None, time.monotonic() + LIMIT
        while len(values) < count and error is None and time.monotonic() < end:
            message = consumer.poll(0.2)
            if message is None:
                continue
            if message.error():
                error = message.error().name()
            else:
                values.append(message.value().decode())
        if error is None and values:
            consumer.commit(asynchronous=False)
        consumer.close()
        return {"error": error, "values": values}

    def topics(self):
        admin = self.kafka.admin.AdminClient(self.settings)
        return {"error": None, "values": sorted(admin.list_topics(timeout=LIMIT).topics)}


class Python:
    def __init__(self, server, client_id):
        import kafka

        self.kafka = kafka
        self.settings = {"bootstrap_servers": server, "client_id": client_id}
        self.producers = {}

    def produce(self, topic, values, acks=-1):
        if acks not in self.producers:
            settings = {"acks": "all" if acks == -1 else acks, "max_block_ms": int(LIMIT * 1000),
                        "enable_idempotence": False, "max_request_size": 20_000_000}
            self.producers[acks] = self.kafka.KafkaProducer(**self.settings, **settings)
        sent = [self.producers[acks].send(topic, value.encode()) for value in values]
        return {"error": None, "offsets": [one.get(LIMIT).offset for one in sent]}

    def consume(self, topics, group, count):
        consumer = self.kafka.KafkaConsumer(*topics, group_id=group, auto_offset_reset="earliest",
                                            **self.settings)
        values, end = [], time.monotonic() + LIMIT
        try:
            while len(values) < count and time.monotonic() < end:
                for messages in consumer.poll(200).values():
                    values += [message.value.decode() for message in messages]
            if values:
                consumer.commit()
        finally:
            consumer.close(autocommit=False)
        return {"error": None, "values": values}

    def topics(self):
        consumer = self.kafka.KafkaConsumer(**self.settings)
        try:
            return {"error": None, "values": sorted(consumer.topics())}
        finally:
            consumer.close()


def main():
    library, server, client_id, _ = sys.argv[1:]
    client = None
    for line in sys.stdin:
        asked = json.loads(line)
        do = asked.pop("do")
        try:
            client = client or {"confluent": Confluent, "python": Python}[library](server, client_id)
            answer = getattr(client, do)(**asked)
        except Exception as error:
            name = getattr(getattr(error, "args", [None])[0], "name", None)
            answer = {"error": name() if callable(name) else type(error).__name__,
                      "details": str(error)}
        print(json.dumps(answer), flush=True)


main()
