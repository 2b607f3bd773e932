"""Orders, for paired devices only."""

import json
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.views import View

from amesh_sdk import AuthMeshIdentity


class SignedRequest(HttpRequest):
    """What the middleware lets through."""

    auth_mesh: AuthMeshIdentity


orders: list[dict[str, Any]] = []


class OrdersView(View):
    request: SignedRequest

    def post(self, request: SignedRequest) -> JsonResponse:
        try:
            order = json.loads(request.body)
        except ValueError:
            return JsonResponse({"error": "not JSON"}, status=400)
        match order:
            case {"amount": int(amount)} if amount > 0:
                orders.append({"amount": amount, "ordered_by": request.auth_mesh.friendly_name})
                return JsonResponse(orders[-1], status=201)
            case _:
                return JsonResponse({"error": "an order has an amount"}, status=422)

    def get(self, request: SignedRequest) -> JsonResponse:
        return JsonResponse(orders, safe=False)


def health(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})
