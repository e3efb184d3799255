"use strict";
// One press of the button is enough: a second one while the answer is on its way does nothing.
(function () {
    document.querySelectorAll(".ss-confirm-form").forEach(function (form) {
        form.addEventListener("submit", function (event) {
            if (form.dataset.sent) {
                event.preventDefault();
                return;
            }
            form.dataset.sent = "yes";
            form.setAttribute("aria-busy", "true");
        });
    });
    // A page kept by the browser's history can be sent; the server knows its token.
    window.addEventListener("pageshow", function (event) {
        if (event.persisted) {
            document.querySelectorAll(".ss-confirm-form").forEach(function (form) {
                delete form.dataset.sent;
                form.removeAttribute("aria-busy");
            });
        }
    });
})();
