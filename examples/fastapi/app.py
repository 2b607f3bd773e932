"""Orders, for paired devices only."""

from fastapi import FastAPI
from pydantic import BaseModel, PositiveInt

from amesh_sdk import AuthMeshMiddleware
from amesh_sdk.fastapi import CurrentDevice, check_app


class NewOrder(BaseModel):
    amount: PositiveInt


class Order(NewOrder):
    ordered_by: str


app = FastAPI(title="Orders")
app.add_middleware(AuthMeshMiddleware, exclude=("/health",))

orders: list[Order] = []


@app.post("/orders", status_code=201)
async def add_order(device: CurrentDevice, order: NewOrder) -> Order:
    orders.append(Order(amount=order.amount, ordered_by=device.friendly_name))
    return orders[-1]


@app.get("/orders")
async def list_orders() -> list[Order]:
    return orders


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


check_app(app)
