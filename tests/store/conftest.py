from tests.sdk.fixtures import image, lic, stand_in

__all__ = ["image", "lic", "stand_in"]
