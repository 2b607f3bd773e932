"""Order something: python client.py URL AMOUNT"""

import sys

from urllib3.util import Retry

from amesh_sdk import amesh

url, amount = sys.argv[1:]
# Each attempt is signed anew: the old signature would be refused.
retry = Retry(total=3, backoff_factor=0.5, allowed_methods=None, status_forcelist=[502, 503])
with amesh.requests_session(max_retries=retry) as session:
    response = session.post(url, json={"amount": int(amount)}, timeout=10)
response.raise_for_status()
print(response.text)
