"""A page and its sheets, taken apart."""

import csv
from html.parser import HTMLParser

VOID = {"img", "meta", "br", "input", "link", "hr"}


class Page(HTMLParser):
    """Elements by name, texts of those that are looked at, and whether all that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.stack, self.texts, self.by_id = [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.found.append((tag, attributes))
        if tag not in VOID:
            self.stack.append((tag, attributes))

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1][0] == tag, f"</{tag}> closes {self.stack[-1:]}"
        self.stack.pop()

    def handle_data(self, data):
        self.texts.append(data)
        if self.stack and "id" in self.stack[-1][1]:
            self.by_id[self.stack[-1][1]["id"]] = self.by_id.get(self.stack[-1][1]["id"], "") + data

    def all(self, tag):
        return [a for t, a in self.found if t == tag]


def sheet(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))
