"""Sends forms without files through httpx, and counts those that come back value for value.

    forms.py URL COUNT
"""

import json
import random
import sys

import httpx

NAMES = ["content", "channel", "a[]", "größe", "имя", "名前", "two words", "filename", "x;y", "it's 100%"]
WORDS = ["hello", "سلام", "🎉", '"quoted"', "--", "a=b&c", "filename=x", "\\", "é", ";", "\r\n", "\n", "%0d%0a"]


def main():
    url, count = sys.argv[1], int(sys.argv[2])
    chance = random.Random(7)
    told = {"whole": 0, "refused": 0}
    with httpx.Client(trust_env=False, timeout=20) as client:
        for _ in range(count):
            fields = [
                (chance.choice(NAMES), " ".join(chance.choices(WORDS, k=chance.randrange(20))))
                for _ in range(1 + chance.randrange(6))
            ]
            # Without a file name: a field, and a form all the same.
            answer = client.post(url, files=[(name, (None, value)) for name, value in fields])
            came = answer.status_code == 200 and sorted(map(tuple, answer.json()["form"])) == sorted(fields)
            told["whole" if came else "refused"] += 1
    print(json.dumps(told))


main()
