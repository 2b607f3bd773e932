"""Orders, for paired devices only."""

from typing import Any

from flask import Flask, g, request

from amesh_sdk.flask import AuthMesh

app = Flask(__name__)
AuthMesh(app, exclude=("/health",))

orders: list[dict[str, Any]] = []


@app.post("/orders")
def add_order() -> tuple[dict[str, Any], int]:
    match request.get_json():
        case {"amount": int(amount)} if amount > 0:
            orders.append({"amount": amount, "ordered_by": g.auth_mesh.friendly_name})
            return orders[-1], 201
        case _:
            return {"error": "an order has an amount"}, 422


@app.get("/orders")
def list_orders() -> list[dict[str, Any]]:
    return orders


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}
