"""Service B, the API: only paired services may ask it."""

from fastapi import FastAPI, HTTPException

from amesh_sdk import AuthMeshMiddleware
from amesh_sdk.fastapi import CurrentDevice, check_app

USERS = {7: "Ada", 8: "Grace"}

app = FastAPI(title="Service B")
app.add_middleware(AuthMeshMiddleware)


@app.get("/internal/users/{user_id}")
async def user(user_id: int, device: CurrentDevice) -> dict[str, int | str]:
    if user_id not in USERS:
        raise HTTPException(404, "no such user")
    return {"id": user_id, "name": USERS[user_id], "asked_by": device.friendly_name}


check_app(app)
