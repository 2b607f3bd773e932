"""A service that runs several times and remembers in Redis which requests it has accepted."""

import os

from fastapi import FastAPI

from amesh_sdk import AuthMeshMiddleware
from amesh_sdk.fastapi import CurrentDevice, check_app
from amesh_sdk.redis import RedisNonceStore

app = FastAPI()
app.add_middleware(AuthMeshMiddleware, nonce_store=RedisNonceStore(os.environ["REDIS_URL"]))


@app.get("/whoami")
async def whoami(device: CurrentDevice) -> dict[str, str]:
    return {"device": device.friendly_name}


check_app(app)
