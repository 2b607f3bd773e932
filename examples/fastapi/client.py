"""Order something: python client.py URL AMOUNT"""

import sys

from amesh_sdk import amesh

url, amount = sys.argv[1:]
response = amesh.fetch(url, method="POST", json={"amount": int(amount)})
response.raise_for_status()
print(response.text)
