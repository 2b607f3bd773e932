"""Order something: python client.py URL AMOUNT"""

import sys

import httpx2

from amesh_sdk import amesh

url, amount = sys.argv[1:]
with httpx2.Client(auth=amesh.auth()) as client:
    response = client.post(url, json={"amount": int(amount)})
response.raise_for_status()
print(response.text)
