"""DittoBus: messages and streams between the processes of a mesh, without a broker."""

from brokerless import Address as DittoAddress
from brokerless import Message as DittoBusMessage
from brokerless import Reliability as DittoBusReliability
from dittobus.bus import DittoBus
from dittobus.delegates import DittoBusDelegate, DittoBusStreamDelegate
from dittobus.dispatch import DispatchQueue
from dittobus.offer import DittoBusStreamOffer
from dittobus.stream import DittoBusStream

__all__ = [
    "DispatchQueue",
    "DittoAddress",
    "DittoBus",
    "DittoBusDelegate",
    "DittoBusMessage",
    "DittoBusReliability",
    "DittoBusStream",
    "DittoBusStreamDelegate",
    "DittoBusStreamOffer",
]
