"""Checkout: the session that the shop makes, and the person who pays in it."""

from tests.stripe_server.billing import subscribing
from tests.stripe_server.clock import DAY
from tests.stripe_server.errors import declined, not_played, refused
from tests.stripe_server.lists import listed, page
from tests.stripe_server.objects import customers
from tests.stripe_server.pricing import total
from tests.stripe_server.world import Obj, World, assign, new_id, nulls, public

EMPTY = """
    after_expiration allow_promotion_codes billing_address_collection cancel_url client_reference_id client_secret
    collected_information consent consent_collection currency_conversion customer customer_account customer_creation
    customer_details customer_email discounts integration_identifier invoice invoice_creation locale managed_payments
    origin_context payment_intent payment_link payment_method_configuration_details permissions recovered_from
    saved_payment_method_options setup_intent shipping_address_collection shipping_cost submit_type subscription
    success_url wallet_options
"""


def create(world: World, params: Obj) -> Obj:
    _check(world, params)
    items = params["line_items"]
    key = new_id("cs_test")
    session = {
        "id": key,
        "object": "checkout.session",
        **nulls(EMPTY),
        **_amounts(world, params),
        "adaptive_pricing": {"enabled": False},
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "created": world.now,
        "custom_fields": [],
        "custom_text": nulls("after_submit shipping_address submit terms_of_service_acceptance"),
        "expires_at": world.now + DAY,
        "livemode": False,
        "metadata": {},
        "mode": params["mode"],
        "payment_method_collection": "always",
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "shipping_options": [],
        "status": "open",
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"https://checkout.stripe.com/c/pay/{key}",
        "_line_items": _line_items(world, items, key),
        "_wanted": [{name: each[name] for name in ("price", "quantity") if name in each} for each in items],
        "_subscription_data": params.get("subscription_data", {}),
    }
    assign(session, params, skip="line_items subscription_data customer_update tax_id_collection")
    return world.add(session)


def _check(world: World, params: Obj) -> None:
    for name in ("mode", "line_items", "success_url"):
        if not params.get(name):
            raise refused(f"Missing required param: {name}.", param=name, code="parameter_missing")
    if params["mode"] != "subscription":
        raise not_played(f"mode={params['mode']}")
    if "customer" in params and "customer_email" in params:
        message = "You may only specify one of these parameters: customer, customer_email."
        raise refused(message, param="customer")
    if "customer" in params:
        customers.living(world, params["customer"], param="customer")
    data = params.get("subscription_data", {})
    if data.get("trial_period_days", 1) < 1:
        message = "The minimum number of trial period days is 1."
        raise refused(message, param="subscription_data[trial_period_days]")
    if data.get("trial_end", world.now + 2 * DAY) < world.now + 2 * DAY:
        message = "The `trial_end` date has to be at least 2 days in the future."
        raise refused(message, param="subscription_data[trial_end]")
    for number, item in enumerate(params["line_items"]):
        _check_item(world, item, number)


def _check_item(world: World, item: Obj, number: int) -> None:
    at = f"line_items[{number}]"
    for name in set(item) - {"price", "quantity", "adjustable_quantity", "metadata"}:
        raise not_played(f"{at}[{name}]")
    if "price" not in item:
        raise refused(f"Missing required param: {at}[price].", param=f"{at}[price]", code="parameter_missing")
    price = world.get("price", item["price"], param=f"{at}[price]")
    if not price["active"]:
        raise refused("The price specified is inactive. This field only accepts active prices.", param=f"{at}[price]")
    if not price["recurring"]:
        raise refused("You must provide at least one recurring price in `subscription` mode.", param=at)
    metered = price["recurring"]["usage_type"] == "metered"
    if metered and "quantity" in item:
        raise refused("Quantity should not be specified where usage_type is metered.", param=f"{at}[quantity]")
    if not metered and "quantity" not in item:
        raise refused("Quantity is required. Add `quantity` to `" + at + "`", param=f"{at}[quantity]")


def _amounts(world: World, params: Obj) -> Obj:
    """Trials begin with nothing to pay, and metered prices ask nothing in advance."""
    prices = [(world.get("price", each["price"]), each.get("quantity", 0)) for each in params["line_items"]]
    due = 0 if _trial_days(params.get("subscription_data", {})) else sum(total(*each) for each in prices)
    return {"amount_subtotal": due, "amount_total": due, "currency": prices[0][0]["currency"]}


def _trial_days(data: Obj) -> bool:
    return "trial_period_days" in data or "trial_end" in data


def _line_items(world: World, given: list[Obj], key: str) -> Obj:
    return listed([_line_item(world, each) for each in given], f"/v1/checkout/sessions/{key}/line_items")


def _line_item(world: World, given: Obj) -> Obj:
    price = world.get("price", given["price"])
    amount = total(price, given.get("quantity", 0))
    return {
        "id": new_id("li"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": price["currency"],
        "description": world.get("product", price["product"])["name"],
        "metadata": {},
        "price": public(price),
        "quantity": given.get("quantity"),
    }


def retrieve(world: World, params: Obj, key: str) -> Obj:
    return world.get("checkout.session", key)


def list_all(world: World, params: Obj) -> Obj:
    found = world.all("checkout.session")
    for name in ("customer", "subscription", "status"):
        if name in params:
            found = [each for each in found if each[name] == params[name]]
    return page(found, params, "/v1/checkout/sessions")


def list_line_items(world: World, params: Obj, key: str) -> Obj:
    items = world.get("checkout.session", key)["_line_items"]
    return page(items["data"][::-1], params, items["url"])


def expire(world: World, params: Obj, key: str) -> Obj:
    session = _open(world, key)
    expire_now(world, session)
    return session


def expire_now(world: World, session: Obj) -> None:
    session.update(status="expired", expires_at=min(session["expires_at"], world.now), url=None)
    world.emit("checkout.session.expired", session)


def _open(world: World, key: str) -> Obj:
    session = world.get("checkout.session", key)
    if session["status"] != "open":
        message = f"This Checkout Session is not `open`: its status is `{session['status']}`."
        raise refused(message, param="session")
    return session


def complete(world: World, key: str, *, email: str = "", name: str = "", card: bool = True) -> Obj:
    """What the person who pays does. Raises as the page would: a refused card, or no card where one is asked for."""
    session = _open(world, key)
    if not card and (session["payment_method_collection"] == "always" or session["amount_total"]):
        raise refused("The page asks for a card.", param="card")
    if session["amount_total"] and session["customer"] in world.declining:
        raise declined()
    customer = _payer(world, session, email, name)
    subscription = _subscribe(world, session, customer, card)
    invoice = subscribing.begin(world, subscription)
    session.update(
        customer=customer["id"],
        customer_details=_details(customer),
        invoice=invoice["id"],
        payment_status="paid" if session["amount_total"] else "no_payment_required",
        status="complete",
        subscription=subscription["id"],
        url=None,
    )
    world.emit("checkout.session.completed", session)
    return session


def _payer(world: World, session: Obj, email: str, name: str) -> Obj:
    if session["customer"]:
        return customers.living(world, session["customer"])
    email = email or session["customer_email"] or "payer@example.com"
    return customers.create(world, {"email": email} | ({"name": name} if name else {}))


def _subscribe(world: World, session: Obj, customer: Obj, card: bool) -> Obj:
    data = session["_subscription_data"]
    days = data.get("trial_period_days")
    trial_end = world.now + days * DAY if days else data.get("trial_end")
    method = customers.attach_card(world, customer)["id"] if card else None
    subscription = subscribing.created(world, customer, session["_wanted"], trial_end)
    subscription["default_payment_method"] = method
    assign(subscription, data, skip="trial_period_days trial_end")
    return subscription


def _details(customer: Obj) -> Obj:
    return {
        "address": nulls(customers.ADDRESS) | {"country": "US"},
        **nulls("business_name individual_name phone"),
        "email": customer["email"],
        "name": customer["name"],
        "tax_exempt": "none",
        "tax_ids": [],
    }
