"""Add up the orders: python report.py URL"""

import sys

import httpx2

from amesh_sdk import amesh

url = sys.argv[1]
try:
    response = amesh.fetch(url, timeout=30)
    response.raise_for_status()
except httpx2.HTTPError as error:
    sys.exit(f"no report: {error}")  # to stderr, so cron mails it; exit status 1
orders = response.json()
print(f"{len(orders)} orders, {sum(order['amount'] for order in orders)} in all")
