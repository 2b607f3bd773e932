"""Says who asks; its device is made from a bootstrap token at the first start."""

from fastapi import FastAPI

from amesh_sdk import AuthMeshMiddleware
from amesh_sdk.fastapi import CurrentDevice, check_app

app = FastAPI(title="Who am I")
app.add_middleware(AuthMeshMiddleware)


@app.get("/whoami")
async def whoami(device: CurrentDevice) -> dict[str, str]:
    return {"you are": device.device_id}


check_app(app)
